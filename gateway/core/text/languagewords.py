"""Small words of languages in Latin script, by which a short text can be told where letters alone mislead. Data only.

Closed-class words (articles, pronouns, prepositions, conjunctions), with and without their accents where people leave
them out; of English also what short prompts begin with. Languages on many models' lists come first: where two fit a
text equally well, the earlier one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_WORDS = """
    en: write create make give show explain find get tell help code python word words number numbers question answer
        story sentence paragraph function following using use used does did should would could any each every many
        much more most best good new old first last two three between into than then them because while where why
        whose these those after before over under like know want need see look work think say said going come take
        call love play favorite favourite squared minus says lies hi hello i'm it's don't that's what's the of and to
        in a is that for it was on as with be by at this are from you i have not my what how can do we he she his her
        they an or if me your please has will all but were been their which there when who so no out up
    es: cuanto cuánto dónde quién cuántos de la que el en y los se del las un por con una su para es al lo como más
        mas pero sus le ya o este sí si mi porque esta está son entre cuando muy sin sobre también me hasta hay donde
        quien desde nos te cuál cómo qué fue
    fr: de la le et les des en un une du que est pour dans qui par sur au pas plus ce il elle je ne se nous vous avec
        son sa ses aux mais ou où leur cette sont été à a c'est tout mon ma mes tu te fait faire être quel quelle
    de: der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat
        dass sie nach wird bei einer um am sind noch wie einem über so zum war haben nur oder aber vor zur bis mehr
        ich wir du
    it: chi perché quando quale di e il la che in un per è una sono con non del si da le dei della ha ho i al come
        anche lo più ma gli mi nel su se questo alla delle era ci quanto dove dal degli nella l'ha suo sua mia mio c'è
        cosa dopo stato stata a ciò ci
    pt: onde quanto como quem qual quero preciso de a o que e do da em um para com não nao uma os no se na por mais as
        dos mas foi ao ele das tem à seu sua ou ser quando muito há nos já está eu também só pelo pela até isso ela
        entre era depois sem mesmo aos são você é
    id: mana berapa siapa kapan mengapa saya ini yang dan di untuk dengan dari pada tidak dalam adalah itu akan juga
        atau oleh karena bisa ada mereka ke kita telah anda sudah dia apa hanya lebih bagaimana seperti kami sebuah
    tl: ang ng sa na mga at ay si ni para kung hindi ito ko mo siya ka niya lang po ba nang naman isang mula ako
    vi: và của là có không được cho một các trong với để người này những khi đã tôi đó từ
    ro: unde cat cât cum cine costa costă am de și în a la cu pe din o pentru este care nu să mai sa si in fost sunt
        ce au fi ca un al lui cele dar sau prin după dupa este-n iar ei ne va unei unui acest această aceasta foarte
        când cand pana până ale intr dintre
    ca: on quant com qui quan el la de i que els les en un una per amb del és no al més dels pel són aquest aquesta
        seva seu ha han o també a va si d'una molt perquè sobre ser entre
    gl: o a de que e do da en un para con non unha os as no na por máis dos como ao das foi é ou súa
    nl: waar hoe hoeveel wat wie waarom de het een van en in is dat op te voor met zijn niet aan er om ook als bij
        maar wordt werd werden door hij naar nog deze ik je uit worden dan over heeft of geen wij was mijn jouw
    af: die van en het is nie dit om vir met sy te hulle word wat ook aan was by kan ek hy in op se na sal ons jy maar
        hierdie jou hoe hoekom waar uit deur as my jy
    da: hvor hvad hvordan hvem hvorfor meget og i at er en det til på for med af som de den et har ikke jeg der han
        var sig om vi fra så ved men kan
    no: hvor hva hvordan hvem hvorfor mye og i er det som en på til for med av at har de et ikke var den jeg han om
        fra så men vi ble ved kan seg
    nn: og i er det som ein på til for med av at har dei eit ikkje var den eg han om frå så men vi vart kan seg ho
    sv: hur vad vem varför mycket var ligger och i att det som en på är av för med till den inte har de ett om jag vi
        men så från han kan sig när vid vårt
    is: og að í á er sem til var við ekki um með en það af hann þar fyrir hún ég
    fi: missä mikä paljonko miten miksi kuka milloin ja on ei se että oli hän mutta kun joka myös ovat kuin niin ole
        mitä minä tai jos
    et: kas sa ma me kus mida miks kuidas ja on ei et see ka oli kui mis aga seda tema ning või oma kes
    hu: hol mennyibe mi hogyan miért ki a az és hogy nem is egy ez volt de meg mint csak már ha el vagy aki azt ezt
    pl: gdzie ile kiedy dlaczego nie w i na z do się że jest to o jak po dla przez od co ale są tym był może jego za
        oraz
    cs: jak můžeš mi kde kolik kdy proč jsi není a v se na je že s z do to i o k pro za jsem jsou ale jako by ve si
        tak od po při byl které který
    sk: kde koľko kedy prečo nie a v na je sa že s z do to o ako pre za som sú ale by vo si od po pri bol ktoré ktorý
    sl: in je v na da se za so ki z pa ne tudi bi od po pri kot ali bil še bom sem smo ni kaj kako kje kdaj zakaj
        lahko o ga me mi res
    hr: sam smo si mi gdje koliko kada zašto je u i se na da za od su s koji što nije iz kao ne a o to koja bi kako
        po ili ali
    bs: je u i se na da za od su s koji što nije iz kao ne a o to koja bi kako po ili ali
    sq: të dhe në një për me nga që është si ka më i e per te ne nje eshte nuk se ai kjo
    lt: kur kiek kada kodėl kas ir yra kad su iš į kaip bet o tai jis ar dėl apie nuo buvo
    lv: un ir ka no par ar uz kas bet arī tas bija viņš ja kā
    tr: nerede nasıl neden kim kadar ve bir bu da de için ile çok olarak ne gibi en daha olan ben mi ama var değil
    az: və bir bu ilə üçün də ki olan da o olaraq var daha
    eu: eta da bat du ez dira dute ere izan zen ditu hau bere
    la: et in est non ad ut cum qui quod per sed ex quae anno hic sunt esse vel ab atque qua terra dies eius quam aut
    eo: la de kaj en estas al ke por mi ne li estis kun el pri kiu ĉi sed oni ĉu vi sur je kial kiel kie
    ga: do an na agus ar i is a le go bhí sé ag don tá ó sa ina bhfuil as ní siad chun
    cy: chi fy eich pam sut beth yn y a i o ar ac mae wedi ei am yr gan oedd bod hyn ond fod eu
    mt: li u il ta ma fil dan biex hija huwa kien għal
    sw: wapi nini gani vipi ya wa na kwa ni za katika la kuwa hii cha kama hiyo ambayo yake yao pia vya huo
    so: oo iyo ee ka ku waa uu la ah aan in ay soo kale isaga
    sn: ne uye kuti mu pa ari kuva zvino kana vanhu nokuti iye
    st: le ba ka ho e ya o sa ke tsa ea hore ha mme eo tse se na re empa di hae tla
    tn: ya le ka go ba ne e a mo di re fa gore o se wa tsa bo kwa ke yo na
    ts: ku na hi va ya ka leswi ni eka swi loko ri u leswaku
    zu: ukuthi futhi kanye uma nge kodwa kakhulu ukuze noma lapho
    xh: ukuba kwaye kunye xa okanye kodwa ukuze nje
    lg: mu ku ne okuba era nti nga bwe abantu ye nnyo
    mi: te ki o nga he i ka e me ngā kua tonu ana mo ko kei a ia mai reo
    jv: sing ing lan iku saka kanthi ana ora marang kang menyang yen wis aku kowe opo iki iso
    su: jeung nu teu anu kana ku tina pikeun henteu aya urang abdi naon éta eta
    min: nan jo untuak urang indak pado samo dapek ado karano lai bisuak awak iko tu baiak
    bjn: nang wan gasan kada lawan ulun banar handak sidin kawa maka bubuhan
    ban: sane ring miwah ane tusing ajak lakar suba tiang nika
    ilo: iti ta dagiti ti ken nga kadagiti maysa saan no
    pam: ding ning ing king karing ampo yang ila nung
    pcm: dem dey wey naim dis dat make wetin una don di tings everi pesin
    ht: yo nan ak pou ki nou li pa yon se gen moun te la a ap sou fi m w mwen ti ou eske èske
    yo: ní ti àwọn àti fún sí ó wọn náà tí
"""


def _read() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    code = ""
    for word in _WORDS.split():
        if word.endswith(":"):
            code = word[:-1]
        elif code not in found.get(word, ()):
            found[word] = (*found.get(word, ()), code)
    return found


#: Word -> the languages it is a small word of.
SMALL_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(_read())
SMALL_WORD_LANGUAGES = tuple(word[:-1] for word in _WORDS.split() if word.endswith(":"))
