"""What languages are called: in English, by themselves, and in the languages most prompts are written in. Data only.

Codes are ISO 639-1, 639-3 where there is none, as in the catalogue's lists of official languages (Filipino is `tl`).
Names are in lower case and of one word; where English uses two ("haitian creole"), the one that says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ENGLISH = """
    af afrikaans; sq albanian; am amharic; ar arabic; hy armenian; as assamese; az azerbaijani azeri; eu basque; be
    belarusian; bn bengali bangla; bs bosnian; bg bulgarian; my burmese; ca catalan; ceb cebuano; zh chinese
    mandarin; yue cantonese; co corsican; hr croatian; cs czech; da danish; nl dutch flemish; en english; eo
    esperanto; et estonian; fo faroese; fi finnish; fr french; gl galician; ka georgian; de german; el greek; gn
    guarani; gu gujarati; ht creole; ha hausa; haw hawaiian; he hebrew; hi hindi; hmn hmong; hu hungarian; is
    icelandic; ig igbo; id indonesian; ga irish; it italian; ja japanese; jv javanese; kn kannada; kk kazakh; km
    khmer cambodian; rw kinyarwanda; ko korean; ku kurdish kurmanji; ckb sorani; ky kyrgyz kirghiz; lo lao laotian;
    la latin; lv latvian; ln lingala; lt lithuanian; lb luxembourgish; mk macedonian; mg malagasy; ms malay
    malaysian; ml malayalam; mt maltese; mi maori; mr marathi; mn mongolian; ne nepali; no norwegian; nb bokmål; nn
    nynorsk; oc occitan; or odia oriya; om oromo; ps pashto; fa persian farsi dari; pl polish; pt portuguese; pa
    punjabi; qu quechua; ro romanian moldovan; ru russian; sm samoan; gd gaelic; sr serbian; st sesotho; sn shona;
    sd sindhi; si sinhala sinhalese; sk slovak; sl slovenian slovene; so somali; es spanish castilian; su sundanese;
    sw swahili kiswahili; sv swedish; tl tagalog filipino; tg tajik; ta tamil; tt tatar; te telugu; th thai; bo
    tibetan; ti tigrinya; ts tsonga; tn tswana; tr turkish; tk turkmen; uk ukrainian; ur urdu; ug uyghur uighur; uz
    uzbek; vi vietnamese; cy welsh; fy frisian; wo wolof; xh xhosa isixhosa; yi yiddish; yo yoruba; zu zulu isizulu
"""
#: Their own names, and what the speakers of large languages call the languages most translated into.
_OTHERS = """
    af afrikaans; sq shqip; ar العربية عربي عربية arabisch arabe árabe arabo арабский арабском arapça; hy հայերեն;
    az azərbaycan; eu euskara euskera; be беларуская беларускую; bn বাংলা বাংলায়; bs bosanski; bg български
    bulgarisch bulgare; ca català catalán; zh 中文 汉语 漢語 chinesisch chinesische chinois chino cinese chinês
    chinees chiński chińskim китайский китайском çince tionghoa kineska; hr hrvatski kroatisch; cs čeština češtiny
    česky tschechisch tchèque checo чешский; da dansk dänisch danois danés; nl nederlands niederländisch
    niederländische néerlandais neerlandés holandés olandese holandês голландский; en englisch englische anglais
    inglés ingles inglese inglês engels angielski angielskim английский английском ingilizce inggris engelska
    engelsk angličtiny angol inglise अंग्रेजी अंग्रेज़ी الإنجليزية الانجليزية; et eesti; fi suomi suomeksi suomea
    finnisch finnois; fr français francais französisch französische francés francese francês frans francuski
    francuskim французский французском fransızca perancis prancis franska; gl galego; ka ქართული; de deutsch
    deutsche allemand alemán tedesco alemão duits niemiecki niemieckim немецкий немецком almanca jerman tyska tysk;
    el ελληνικά griechisch grec griego greco grego греческий; gu ગુજરાતી; he עברית hebräisch hébreu hebreo; hi
    हिन्दी हिंदी; hu magyar magyarul magyarra ungarisch hongrois húngaro; is íslenska íslensku; id indonesia
    indonesisch; ga gaeilge; it italiano italienisch italienische italien italiaans włoski włoskim итальянский
    итальянском italyanca italienska; ja japanisch japanische japonais japonés giapponese japonês japans japoński
    japońskim японский японском japonca jepang japanska; kn ಕನ್ನಡ; kk қазақша қазақ; km ខ្មែរ; ko koreanisch coréen
    coreano koreaans koreański корейский корейском korece korea koreanska; lv latviešu; lt lietuvių; mk македонски;
    ms melayu; ml മലയാളം; mr मराठी; mn монгол; ne नेपाली; no norsk norwegisch norvégien noruego; fa فارسی persisch
    persan; pl polski polskim polnisch polnische polonais polaco polacco польский польском lehçe polska; pt
    português portugues portugiesisch portugiesische portugais portugués portoghese portugees portugalski
    португальский portekizce; pa ਪੰਜਾਬੀ; ro română românește rumänisch roumain rumano romeno rumeno; ru русский
    русском russisch russische russe ruso russo rosyjski rosyjskim rusça rusia ryska; sr српски srpski serbisch; sk
    slovenčina slovensky; sl slovenščina slovensko; es español espanol castellano spanisch spanische espagnol
    spagnolo espanhol spaans hiszpański hiszpańskim испанский испанском ispanyolca spanyol spanska; sw kiswahili; sv
    svenska schwedisch suédois sueco svedese шведский; tl tagalog; ta தமிழ் தமிழில்; te తెలుగు; th ไทย thailändisch;
    tr türkçe türkçeye türkisch türkische turc turco турецкий турецком; uk українська українською українську
    ukrainisch ukrainien ucraniano украинский украинском; ur اردو; vi việt vietnamesisch vietnamien вьетнамский; cy
    cymraeg
"""
#: Written without spaces around them: looked for inside words.
_UNSPACED = """
    ja 日本語 日语 日文 日語 일본어; en 英語 英语 英文 영어; zh 中国語 中文 汉语 漢語 普通话 중국어; ko 韓国語 韩语
    韓語 韩文 韓文 한국어; fr フランス語 法语 法文 法語 프랑스어; de ドイツ語 德语 德文 德語 독일어; es スペイン語
    西班牙语 西班牙文 스페인어; it イタリア語 意大利语 意大利文 이탈리아어; pt ポルトガル語 葡萄牙语 포르투갈어; ru
    ロシア語 俄语 俄文 俄語 러시아어; ar アラビア語 阿拉伯语 阿拉伯文 아랍어; th タイ語 泰语 泰文 태국어; vi
    ベトナム語 越南语 越南文 베트남어; id インドネシア語 印尼语 印尼文 인도네시아어; hi ヒンディー語 印地语 힌디어;
    tr トルコ語 土耳其语 터키어; nl オランダ語 荷兰语 네덜란드어; pl ポーランド語 波兰语 폴란드어; uk ウクライナ語
    乌克兰语
"""


def _read(table: str) -> dict[str, str]:
    entries = (entry.split() for entry in table.split(";"))
    return {name: code for code, *names in entries for name in names}


ENGLISH: Mapping[str, str] = MappingProxyType(_read(_ENGLISH))
OTHERS: Mapping[str, str] = MappingProxyType({**_read(_ENGLISH), **_read(_OTHERS)})
UNSPACED: Mapping[str, str] = MappingProxyType(_read(_UNSPACED))
